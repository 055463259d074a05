import subprocess,time,re,json,urllib.request
f="odd2/od'd $x\" é%s.cstack"
out=[]
for n,d in (('s','sqlite:/tmp/atk/odd.db'),('p','postgres://postgres@127.0.0.1:55432/atk_o')):
    p=subprocess.Popen(['./cs','serve',f,'--database',d,'--addr','127.0.0.1:0','--apply','--auth','none','--service','s"\\\u2028v'],stdout=open('odd.log','w'),stderr=subprocess.STDOUT); time.sleep(2)
    log=open('odd.log').read(); m=re.search(r'http://\S+',log)
    if not m: print(n,log[:600]); continue
    u=m.group(0)
    def call(m,p,b=None):
        r=urllib.request.Request(u+'/api'+p,data=json.dumps(b).encode() if b is not None else None,method=m,headers={'content-type':'application/json','X-Request-Id':'a"\\b'})
        try: x=urllib.request.urlopen(r,timeout=60); return x.status,x.read().decode()
        except urllib.error.HTTPError as e: return e.code,e.read().decode()
    print(n,[call('POST','/olds',dict(id=i,from_=None) if 0 else {'id':i,'from':m,'before':'b','order':1,'moved':True,'at':'zz'})[0] for i,m in ((1,'x'),(2,'y'),(3,'z'))], call('POST','/keys',{'key':'a"','changed':'\\'}))
    s,t=call('GET','/audit'); print(s,t[:200] if s!=200 else '')
    if s==200:
        ev=json.loads(t)['items']
        for e in ev:
            for k in('at','event_id','request_id','db_user'): e.pop(k)
        out.append(ev); print(len(ev),json.dumps(ev[0])[:900])
    print(open('odd.log').read()[-500:])
    p.terminate(); p.wait()
print(out[0]==out[1] if len(out)==2 else None)
