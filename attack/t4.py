# refusal told while first try is in flight in another process, which then succeeds
import sys; from lib import *
db=PG+'atk4'
psql('postgres','drop database if exists atk4'); psql('postgres','create database atk4')
A=Server(7801,db); B=Server(7802,db,apply=False)
ann=token({"id":"ann","role":"user","tenantId":"t"})
print(req(7801,'POST','/gates',{"id":1,"open":True},tok=ann)[0])
# operator session holds the unique value uncommitted, so first try waits
op=subprocess.Popen(['psql',PG+'atk4','-At'],stdin=subprocess.PIPE,text=True)
op.stdin.write("begin; insert into items(gate_id,code) values (1,'X');\n"); op.stdin.flush(); time.sleep(.5)
res={}
def first(): res['first']=req(7801,'POST','/items',{"gateId":1,"code":"X"},key='"k1"',tok=ann)
t=threading.Thread(target=first); t.start(); time.sleep(1)
print('close gate',req(7802,'PATCH','/gates/1',{"open":False},tok=ann)[0])
r=req(7802,'POST','/items',{"gateId":1,"code":"X"},key='"k1"',tok=ann); print('second try, other server:',r[0],r[2])
op.stdin.write("rollback;\n"); op.stdin.flush(); t.join()
print('first:',res['first'][0],res['first'][2])
r=req(7802,'POST','/items',{"gateId":1,"code":"X"},key='"k1"',tok=ann); print('third:',r[0],r[1].get('idempotent-replayed'))
print(psql('atk4','select * from items'))
op.stdin.close(); op.wait()
A.stop();B.stop()
psql('postgres','drop database atk4')
